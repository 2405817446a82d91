package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var thisMachine = machine{noCores: noCores, lock: lockPages, swaps: readSwaps}

// noCores sets the limit, which children inherit, and the flag, which also holds where cores are piped to a program: the
// kernel does not ask the limit then, see core(5).
func noCores() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_CORE): %w", err)
	}
	return nil
}

// lockPages locks pages when they are first touched: Go reserves far more address space than it uses. Under a finite limit it
// does not: an allocation beyond the limit would end the program later.
func lockPages() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("getrlimit(RLIMIT_MEMLOCK): %w", err)
	}
	if limit.Max != unix.RLIM_INFINITY && !mayLock() {
		return errors.New("locked memory is limited, and CAP_IPC_LOCK is not given")
	}
	if limit.Cur != limit.Max {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit.Max, Max: limit.Max}); err != nil {
			return fmt.Errorf("setrlimit(RLIMIT_MEMLOCK): %w", err)
		}
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("mlockall: %w", err)
	}
	return nil
}

// mayLock reports whether the process has CAP_IPC_LOCK, to which limits do not apply.
func mayLock() bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err == nil && set>>unix.CAP_IPC_LOCK&1 == 1
}

func readSwaps() ([]byte, error) {
	f, err := os.Open("/proc/swaps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}
