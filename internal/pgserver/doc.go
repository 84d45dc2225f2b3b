// Package pgserver starts PostgreSQL for tests that need a real one; they have the build tag "servers",
// as what is here.
package pgserver
