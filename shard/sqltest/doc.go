// Package sqltest has the tests of package shard with real databases: SQLite by a driver in Go, and
// PostgreSQL. It is a module of its own, so that nobody who uses package shard needs their drivers.
package sqltest
