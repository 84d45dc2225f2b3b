package trace

import (
	"strings"
	"testing"
)

func FuzzRead(f *testing.F) {
	add := func(data, name string, o Options) {
		if len(data) < 1000 { // longer ones only slow it down
			f.Add(data, name, int(o.Format), o.Field, o.Separator, o.Limit)
		}
	}
	for _, tc := range readable {
		add(tc.data, tc.name, tc.o)
	}
	for _, tc := range unreadable {
		add(tc.data, tc.name, tc.o)
	}
	f.Fuzz(func(t *testing.T, data, name string, format, field int, separator string, limit int) {
		o := Options{Format: Format(format), Field: field, Separator: separator, Limit: limit}
		const most = 10_000 // a few bytes of gzip or ARC can ask for many more
		if o.Limit == 0 || o.Limit > most {
			o.Limit = most
		}
		keys, err := Read(strings.NewReader(data), name, o)
		if err != nil {
			if len(keys) != 0 {
				t.Fatalf("%d keys along with the error %v", len(keys), err)
			}
			if !strings.HasPrefix(err.Error(), "trace: "+name+": ") {
				t.Fatalf("error %q does not name the trace %q", err, name)
			}
			return
		}
		if len(keys) == 0 || len(keys) > o.Limit {
			t.Fatalf("%d keys and no error, with a limit of %d", len(keys), o.Limit)
		}
		if o.Format.resolve(name) == Text {
			// Dense, in order of first appearance.
			next := uint64(0)
			for i, k := range keys {
				if k > next {
					t.Fatalf("key %d is %d, before any %d", i, k, next)
				}
				if k == next {
					next++
				}
			}
		}
	})
}
