package daemon_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"consilium.dev/internal/daemon"
)

// TestRoom: the memory of the machine, or of the tightest control group that the process is in.
func TestRoom(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
		fault string
	}{
		{"machine", map[string]string{"proc/meminfo": "MemTotal:       4194304 kB\nMemFree:  1 kB\n"}, 4 * gib, ""},
		{"unified group", map[string]string{
			"proc/meminfo": "MemTotal: 4194304 kB\n", "proc/self/cgroup": "0::/system.slice/council.service\n",
			"sys/fs/cgroup/system.slice/council.service/memory.max": "max\n", "sys/fs/cgroup/system.slice/memory.max": "1073741824\n",
		}, gib, ""},
		{"container", map[string]string{
			"proc/meminfo": "MemTotal: 4194304 kB\n", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "2147483648\n",
		}, 2 * gib, ""},
		{"first version", map[string]string{
			"proc/meminfo": "MemTotal: 4194304 kB\n", "proc/self/cgroup": "9:cpu,cpuacct:/a\n8:memory:/a\n1:name=systemd:/b\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1073741824\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/a/memory.max": "1\n",
		}, gib, ""},
		{"a way out of the folder", map[string]string{
			"proc/meminfo": "MemTotal: 4194304 kB\n", "proc/self/cgroup": "0::/../../../x\n", "x/memory.max": "1\n", "sys/fs/cgroup/x/memory.max": "1073741824\n",
		}, gib, ""},
		{"nothing to see", nil, 0, "cannot be seen"},
		{"no such line", map[string]string{"proc/meminfo": "MemFree: 1 kB\n"}, 0, "no line MemTotal"},
		{"not a number", map[string]string{"proc/meminfo": "MemTotal: 4194304 kB\n", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "-1\n"}, 0, `says "-1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := fstest.MapFS{}
			for name, text := range c.files {
				files[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := daemon.RoomOf(files)
			if got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("room = %d, %v, want %d, %q", got, err, c.want, c.fault)
			}
		})
	}
}
