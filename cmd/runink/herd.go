package main

import (
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newHerdCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "herd", Short: "Make herds and bound what they use",
		Example: "  runink herd put analytics --cpu 4 --memory 8Gi",
	}
	addClientFlags(c)
	c.AddCommand(newHerdPutCmd(), newHerdGetCmd(), newHerdListCmd(), newHerdDeleteCmd())
	return c
}

func newHerdPutCmd() *cobra.Command {
	var cpus float64
	var memory, disk string
	c := &cobra.Command{
		Use: "put NAME", Short: "Make a herd, or change its quota", Args: exactArgs(1, "NAME"),
		Long:    "Make a herd, or replace its quota. What is not given has no limit.",
		Example: "  runink herd put analytics --cpu 4 --memory 8Gi",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			h := &v1.Herd{Name: args[0], Quota: &v1.Resources{MilliCpu: int64(cpus * 1000)}}
			var err error
			if h.Quota.Memory, err = parseSize("--memory", memory); err != nil {
				return err
			}
			if h.Quota.Disk, err = parseSize("--disk", disk); err != nil {
				return err
			}
			out, err := v1.NewHerdServiceClient(api).Put(c.Context(), &v1.PutHerdRequest{Herd: h})
			if err != nil {
				return err
			}
			return emitHerds(c, out, out)
		}),
	}
	c.Flags().Float64Var(&cpus, "cpu", 0, "processors its slices may request together; 0: no limit")
	c.Flags().StringVar(&memory, "memory", "", "memory, such as 512Mi or 8Gi")
	c.Flags().StringVar(&disk, "disk", "", "disk, such as 10Gi")
	addOutputFlag(c)
	return c
}

// parseSize reads a number of bytes with an optional unit Ki, Mi, Gi or Ti.
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, unit := int64(0), s
	for unit != "" && unit[0] >= '0' && unit[0] <= '9' {
		if n > 1<<50 {
			return 0, errs.E(errs.Invalid, "read size", "%q is too large", s).WithField(flag)
		}
		n, unit = n*10+int64(unit[0]-'0'), unit[1:]
	}
	shift, ok := map[string]int{"": 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]
	if !ok || unit == s || n > 1<<62>>shift {
		return 0, errs.E(errs.Invalid, "read size", "%q is not a size", s).WithField(flag).WithHint("a number and Ki, Mi, Gi or Ti, such as 512Mi")
	}
	return n << shift, nil
}

func emitHerds(c *cobra.Command, m proto.Message, herds ...*v1.Herd) error {
	return emit(c, m, func(w io.Writer) {
		row(w, "NAME", "CPU", "MEMORY", "DISK")
		for _, h := range herds {
			q, u := h.GetQuota(), h.GetUsed()
			row(w, h.GetName(), bounded(cpu(u.GetMilliCpu()), cpu(q.GetMilliCpu())),
				bounded(size(u.GetMemory()), size(q.GetMemory())), bounded(size(u.GetDisk()), size(q.GetDisk())))
		}
	})
}

func bounded(used, quota string) string {
	if quota == "0" {
		return used + " of any"
	}
	return used + " of " + quota
}

func newHerdGetCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "get NAME", Short: "Show a herd", Args: exactArgs(1, "NAME"), Example: "  runink herd get analytics",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			h, err := v1.NewHerdServiceClient(api).Get(c.Context(), &v1.GetHerdRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return emitHerds(c, h, h)
		}),
	}
	addOutputFlag(c)
	return c
}

func newHerdListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List herds", Args: cobra.NoArgs, Example: "  runink herd list",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			resp, err := v1.NewHerdServiceClient(api).List(c.Context(), &v1.ListHerdsRequest{})
			if err != nil {
				return err
			}
			return emitHerds(c, resp, resp.GetHerds()...)
		}),
	}
	addOutputFlag(c)
	return c
}

func newHerdDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete an empty herd", Args: exactArgs(1, "NAME"), Example: "  runink herd delete analytics",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewHerdServiceClient(api).Delete(c.Context(), &v1.DeleteHerdRequest{Name: args[0]})
			return err
		}),
	}
}
