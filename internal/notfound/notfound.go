// Package notfound has the one error that says that there is nothing under a key. The
// packages that load values export it under the name ErrNotFound, so that a function written
// for one of them can be given to another without importing either.
package notfound

import "errors"

// Err is the error.
var Err = errors.New("not found")
