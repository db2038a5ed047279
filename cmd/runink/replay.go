package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/buildinfo"
	"github.com/runink/runink/internal/errs"
)

func newReplayCmd() *cobra.Command {
	var last int32
	var save string
	c := &cobra.Command{
		Use:   "replay [FILE]",
		Short: "Decide recorded placements again and compare",
		Long: `Replay takes the placement decisions that the leader has kept, each with all the scheduler
knew, decides them again here, and says whether the answer is the same. The scheduler is a
pure function, so it must be: another answer is a defect, or another version's. It exits
with 1 if one differs.

--save keeps what was fetched in a file (a JSON object a line), and with a FILE instead of
a cluster such a file is replayed. A leader keeps the decisions of its own time only.`,
		Example: `  runink replay --last 10
  runink replay --save decisions.jsonl
  runink replay decisions.jsonl -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if last < 0 || last > 1000 {
				return errs.E(errs.Invalid, "replay", "%d is not between 0 and 1000", last).WithField("--last").WithHint("0 takes all that are kept")
			}
			if len(args) == 1 {
				if save != "" {
					return errs.E(errs.Invalid, "replay", "FILE is saved already").WithField("--save").WithHint("leave one of them out")
				}
				return replayFile(c, args[0], int(last))
			}
			return withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
				return replayCluster(c, api, last, save)
			})(c, args)
		},
	}
	addClientFlags(c)
	addOutputFlag(c)
	c.Flags().Int32Var(&last, "last", 0, "only the last N decisions (default: all that are kept)")
	c.Flags().StringVar(&save, "save", "", "keep what was fetched in FILE")
	return c
}

func replayFile(c *cobra.Command, path string, last int) error {
	f, err := os.Open(path)
	if err != nil {
		return errs.E(errs.NotFound, "replay", "%w", err).WithField("FILE")
	}
	defer f.Close()
	all, err := readDecisions(f, path)
	if err != nil {
		return err
	}
	if last > 0 && len(all) > last {
		all = all[len(all)-last:]
	}
	return judge(c, all)
}

func replayCluster(c *cobra.Command, api *apiclient.Client, last int32, save string) error {
	stream, err := v1.NewSchedulerServiceClient(api).Decisions(c.Context(), &v1.DecisionsRequest{Last: last})
	if err != nil {
		return err
	}
	var in io.Reader = &chunks{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	name := "the leader's answer"
	if save != "" {
		if err := saveAs(save, in); err != nil {
			return err
		}
		f, err := os.Open(save)
		if err != nil {
			return errs.E(errs.Internal, "replay", "%w", err).WithField("--save")
		}
		defer f.Close()
		in, name = f, save
	}
	all, err := readDecisions(in, name)
	if err != nil {
		return err
	}
	return judge(c, all)
}

// chunks reads what comes in messages.
type chunks struct {
	next func() ([]byte, error)
	rest []byte
}

func (r *chunks) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		var err error
		if r.rest, err = r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// saveAs writes a file whole or not at all.
func saveAs(path string, in io.Reader) (err error) {
	const op = "replay"
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return errs.E(errs.Invalid, op, "%w", err).WithField("--save")
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, in); err != nil {
		return errs.Wrap(op, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return errs.E(errs.Exhausted, op, "%w", err).WithField("--save")
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errs.E(errs.Internal, op, "%w", err).WithField("--save")
	}
	return nil
}

// maxDecision bounds a line of a file of decisions.
const maxDecision = 256 << 20

// readDecisions reads a JSON object a line. What it returns can be replayed.
func readDecisions(in io.Reader, name string) ([]*scheduler.Decision, error) {
	const op = "read decisions"
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxDecision)
	var all []*scheduler.Decision
	for n := 1; lines.Scan(); n++ {
		d := &scheduler.Decision{}
		err := json.Unmarshal(lines.Bytes(), d)
		if err == nil {
			err = d.Check()
		}
		if err != nil {
			return nil, errs.E(errs.Invalid, op, "%w", err).At(fmt.Sprintf("%s:%d", name, n)).
				WithHint("it must be a file that `runink replay --save FILE` wrote")
		}
		all = append(all, d)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, errs.E(errs.Invalid, op, "a line is longer than %s", size(maxDecision)).At(fmt.Sprintf("%s:%d", name, len(all)+1))
	} else if err != nil {
		return nil, errs.Wrap(op, err)
	}
	return all, nil
}

// verdict is what replaying one decision found.
type verdict struct {
	Seq         uint64       `json:"seq"`
	Time        time.Time    `json:"time"`
	Version     string       `json:"version"`
	Regions     int          `json:"regions"`
	Placed      int          `json:"placed"`
	Waiting     int          `json:"waiting"`
	Equal       bool         `json:"equal"`
	Differences []difference `json:"differences,omitempty"`
}

type difference struct {
	Run      string `json:"run"`
	Region   int    `json:"region"`
	Recorded string `json:"recorded"`
	Now      string `json:"now"`
}

// judge replays and prints. It fails if a decision differs.
func judge(c *cobra.Command, all []*scheduler.Decision) error {
	out := struct {
		Decisions []verdict `json:"decisions"`
		Different int       `json:"different"`
	}{Decisions: []verdict{}}
	version := ""
	for _, d := range all {
		v := verdict{Seq: d.Seq, Time: d.Time, Version: d.Version, Regions: len(d.Groups), Placed: len(d.Placed), Waiting: len(d.Unplaced)}
		for _, x := range d.Replay() {
			v.Differences = append(v.Differences, difference(x))
		}
		if v.Equal = len(v.Differences) == 0; !v.Equal {
			out.Different++
			version = d.Version
		}
		out.Decisions = append(out.Decisions, v)
	}
	if err := emitJSON(c, out, func(w io.Writer) {
		if len(all) == 0 {
			fmt.Fprintln(w, "no decisions are kept: the leader has placed nothing in its time")
			return
		}
		row(w, "SEQ", "TIME", "REGIONS", "PLACED", "WAITING", "AGAIN")
		for _, v := range out.Decisions {
			again := "equal"
			if !v.Equal {
				again = "DIFFERS"
			}
			row(w, v.Seq, v.Time.Local().Format(time.DateTime), v.Regions, v.Placed, v.Waiting, again)
		}
		for _, v := range out.Decisions {
			for _, d := range v.Differences {
				fmt.Fprintf(w, "decision %d, run %s, region %d\n  recorded: %s\n  now:      %s\n", v.Seq, d.Run, d.Region, orNothing(d.Recorded), orNothing(d.Now))
			}
		}
	}); err != nil {
		return err
	}
	if out.Different == 0 {
		return nil
	}
	e := errs.E(errs.Internal, "replay", "%d of %d decisions differ", out.Different, len(all))
	if here := buildinfo.Read().Version; version != here {
		return e.WithHint("they were made by version %s and this is %s: replay them with that one", version, here)
	}
	return e.WithHint("the same input must give the same answer: keep it with `runink replay --save FILE` and report it")
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
