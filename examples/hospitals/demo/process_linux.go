package main

import (
	"errors"
	"os"
	"syscall"
)

// own makes a program end with us, even if we are killed, and keeps the terminal's Ctrl-C from it, so that it ends in its turn.
func own() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// foreground is own for a program that shares the terminal with us.
func foreground() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// lock takes a file for this process. It is free again when the process has ended, however that was.
func lock(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}
