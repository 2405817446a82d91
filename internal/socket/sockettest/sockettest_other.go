//go:build !linux

package sockettest

// IsGuest reports false: guests are a matter of Linux.
func IsGuest() bool { return false }

// Boot is not called where there are no guests.
func Boot(run func() int) { run() }
