//go:build !linux

package main

import "syscall"

// own does nothing here: only Linux can end a program with the one that started it. Should this program be killed so that it
// cannot clean up (SIGKILL), its coordinator and participants have to be ended by hand.
func own() *syscall.SysProcAttr { return nil }

func foreground() *syscall.SysProcAttr { return nil }

// lock locks nothing here.
func lock(string) (unlock func(), err error) { return func() {}, nil }
