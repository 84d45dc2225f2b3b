// Package redisserver starts redis-server for tests that need a real one; they have the build tag
// "servers", as what is here.
package redisserver
