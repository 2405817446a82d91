package daemon

import (
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"
)

// The values of the setting "swap".
const (
	SwapWarn   = "warn" // also the empty string
	SwapRefuse = "refuse"
)

// machine is what protecting a process's memory asks of the operating system.
type machine struct {
	noCores func() error           // no core dumps, and no debugger of another process of the same user
	lock    func() error           // all pages, now and later, stay in memory
	swaps   func() ([]byte, error) // the text of /proc/swaps
}

// errElsewhere is what an operating system says for which this program cannot do it.
var errElsewhere = errors.New("this version does it on Linux only")

// Memory says how far what a process holds in memory is kept off disks.
type Memory struct {
	Swap    string // "locked": pages stay in memory; "none": the machine does not swap; "possible"
	cores   error  // why core dumps are possible
	swapped error  // why swapping is
}

// ProtectMemory keeps what this process holds in memory off disks, as far as the operating system lets it; it is to be called
// before secrets are read. No core dumps, and no swap: pages are locked where that is permitted without a limit; else it is
// looked whether the machine swaps at all. If keys and plaintext could be swapped, the setting says what follows: with
// "refuse" a [ConfigError], with "warn", or none, a warning by [Memory.Tell].
func ProtectMemory(swap string) (Memory, error) { return protect(swap, thisMachine) }

func protect(swap string, m machine) (Memory, error) {
	if swap != "" && swap != SwapWarn && swap != SwapRefuse {
		return Memory{}, &ConfigError{fmt.Errorf("swap: %q: want warn or refuse", swap)}
	}
	p := Memory{cores: m.noCores()}
	p.Swap, p.swapped = swapState(m)
	if p.swapped != nil && swap == SwapRefuse {
		return Memory{}, &ConfigError{fmt.Errorf("swap: keys and plaintext could be written to swap: %w", p.swapped)}
	}
	return p, nil
}

// Tell logs what holds.
func (m Memory) Tell(log *zap.Logger) {
	cores := "off"
	if m.cores != nil {
		cores = "possible"
		log.Warn("core dumps cannot be turned off: one would hold keys and plaintext", zap.Error(m.cores))
	}
	if m.swapped != nil {
		log.Warn("memory may be swapped: keys and plaintext could reach a disk", zap.Error(m.swapped))
	}
	log.Info("memory protected", zap.String("core_dumps", cores), zap.String("swap", m.Swap))
}

// swapState returns "locked" or "none"; with an error that says what to do, "possible".
func swapState(m machine) (string, error) {
	locked := m.lock()
	if locked == nil {
		return "locked", nil
	}
	text, err := m.swaps()
	if err != nil {
		return "possible", fmt.Errorf("pages cannot be locked (%w), and whether this machine swaps cannot be seen: %w", locked, err)
	}
	areas, err := swapAreas(string(text))
	if err != nil {
		return "possible", fmt.Errorf("pages cannot be locked (%w), and whether this machine swaps cannot be seen: %w", locked, err)
	}
	if len(areas) > 0 {
		return "possible", fmt.Errorf("pages cannot be locked (%w), and this machine swaps to %s: turn that off (swapoff -a), "+
			"or let this program lock its pages (CAP_IPC_LOCK, or no limit on locked memory)", locked, strings.Join(areas, ", "))
	}
	return "none", nil
}

// swapAreas returns the files and devices that /proc/swaps lists after its heading, see swapon(8).
func swapAreas(text string) ([]string, error) {
	heading, rest, ok := strings.Cut(text, "\n")
	if !ok || !strings.HasPrefix(heading, "Filename") {
		return nil, errors.New("the list of swap areas has no heading")
	}
	var areas []string
	for line := range strings.Lines(rest) {
		if fields := strings.Fields(line); len(fields) > 0 {
			areas = append(areas, fields[0])
		}
	}
	return areas, nil
}
