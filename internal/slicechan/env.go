package slicechan

import "strconv"

// RuntimeEnv is how the Go runtime of a slice is told at its start what it may use, as
// environment variables: set later, each stops the world once more. More processors than the
// slice has a share of would only make threads. The memory limit is short of the cgroup's:
// collecting harder near the limit is better than being killed at it.
func RuntimeEnv(milliCPU, memory int64) map[string]string {
	env := map[string]string{}
	if milliCPU > 0 {
		env["GOMAXPROCS"] = strconv.FormatInt(max(1, (milliCPU+999)/1000), 10)
	}
	if memory > 0 {
		env["GOMEMLIMIT"] = strconv.FormatInt(memory/100*85, 10)
	}
	return env
}
