// Package repo holds no code, only tests that examine the repository itself: which package
// imports which, that every exported name is documented, that the README's programs do what
// it says, and that a stranger can fetch a module and use it.
package repo
