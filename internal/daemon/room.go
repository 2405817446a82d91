package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Room returns how many bytes of memory this process can have: the machine's, or less where a control group says so. Only Linux
// tells.
func Room() (int64, error) { return room(os.DirFS("/")) }

// room is Room of a machine whose files are in root: /proc/meminfo, see proc_meminfo(5), and the limits of the process's control
// group and of all above it, of either version, see cgroups(7).
func room(root fs.FS) (int64, error) {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("how much memory there is cannot be seen: %w", err)
	}
	most, err := total(string(text))
	if err != nil {
		return 0, err
	}
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without them
		return most, nil
	}
	if err != nil {
		return 0, fmt.Errorf("which control group this is cannot be seen: %w", err)
	}
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		folder, file := "sys/fs/cgroup", "memory.max"
		if controllers != "" {
			folder, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		if controllers != "" && !strings.Contains(","+controllers+",", ",memory,") {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			limit, err := limitOf(root, path.Join(folder, group, file))
			if err != nil {
				return 0, err
			}
			most = min(most, limit)
			if group == "/" {
				break
			}
		}
	}
	return most, nil
}

// total returns the bytes of the line MemTotal.
func total(meminfo string) (int64, error) {
	for line := range strings.Lines(meminfo) {
		rest, found := strings.CutPrefix(line, "MemTotal:")
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err == nil && n > 0 && n <= math.MaxInt64/1024 {
			return 1024 * n, nil
		}
	}
	return 0, errors.New("how much memory there is cannot be seen: /proc/meminfo has no line MemTotal that says it")
}

// limitOf returns a control group's limit, the largest int64 where it has none. In a container the groups above its own cannot be
// seen.
func limitOf(root fs.FS, file string) (int64, error) {
	text, err := fs.ReadFile(root, file)
	if errors.Is(err, fs.ErrNotExist) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, fmt.Errorf("the control group's limit of memory cannot be seen: %w", err)
	}
	word := strings.TrimSpace(string(text))
	if word == "max" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("the control group's limit of memory cannot be seen: /%s says %.32q", file, word)
	}
	return n, nil
}
