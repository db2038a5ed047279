package main

import (
	"log/slog"

	"github.com/runink/runink/internal/nodecfg"
)

// agentStatus publishes the agent's state for the node's console.
func agentStatus(log *slog.Logger) func(state, message string) {
	states := map[string]nodecfg.State{
		"waiting": nodecfg.StateWaiting, "session": nodecfg.StateStarting, "ready": nodecfg.StateReady,
		"no session": nodecfg.StateFailed, "refused": nodecfg.StateFailed,
	}
	return func(state, message string) {
		log.Info("agent", "state", state, "message", message)
		err := nodecfg.WriteStatus(nodecfg.StatusDir, "agent", nodecfg.Status{State: states[state], Message: message})
		if err != nil {
			log.Error("status for the console not written", "err", err)
		}
	}
}

// imageInfo is what the booted image says of itself; empty on an ordinary host.
func imageInfo(log *slog.Logger) nodecfg.ImageInfo {
	info, err := nodecfg.LoadImage(nodecfg.ImageFile)
	if err != nil {
		log.Info("no image description: an ordinary host", "err", err)
	}
	return info
}
