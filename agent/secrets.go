package agent

import (
	"bytes"
	"path"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/slice/keeper"
)

// secretsVariable tells a slice the folder of its secrets' files.
const secretsVariable = "RUNINK_SECRETS"

// deliver puts the values of a slice's secrets where its plan wants them: into a variable, a
// file, or the slice's specification for its context. They are in memory only, here as on
// their way: the agent's record of an attempt names secrets and holds none.
func deliver(uses []*apiv1.SecretUse, values map[string][]byte, spec *slicechan.Spec, ls *keeper.LaunchSpec) error {
	const op = "deliver secrets"
	for _, u := range uses {
		value, ok := values[u.Path]
		if !ok {
			return errs.E(errs.Internal, op, "the leader did not send it").WithField(u.Path)
		}
		if u.File != "" {
			if ls.Secrets == nil {
				ls.Secrets, spec.SecretFiles = map[string][]byte{}, map[string]string{}
				ls.Env = append(ls.Env, secretsVariable+"="+keeper.SecretsDir)
			}
			ls.Secrets[u.File] = value
			spec.SecretFiles[u.Path] = path.Join(keeper.SecretsDir, u.File)
			continue // its context reads the file
		}
		if u.Env != "" {
			if bytes.IndexByte(value, 0) >= 0 {
				return errs.E(errs.Invalid, op, "its value holds a zero byte, and cannot be variable %s", u.Env).WithField(u.Path).
					WithHint("write as=\"file\" in its @secret")
			}
			ls.Env = append(ls.Env, u.Env+"="+string(value))
		}
		if spec.Secrets == nil {
			spec.Secrets = map[string][]byte{}
		}
		spec.Secrets[u.Path] = value
	}
	return nil
}
