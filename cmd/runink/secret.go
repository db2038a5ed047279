package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newSecretCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "secret", Short: "Store values that only slices read",
		Example: "  runink secret put --herd analytics warehouse/password < password.txt",
	}
	addClientFlags(c)
	c.AddCommand(newSecretPutCmd(), newSecretListCmd(), newSecretDeleteCmd())
	return c
}

// maxSecret is what the API takes, in bytes.
const maxSecret = 64 << 10

func newSecretPutCmd() *cobra.Command {
	var herd, file string
	c := &cobra.Command{
		Use: "put --herd HERD PATH", Short: "Store a value, from standard input or a file", Args: exactArgs(1, "PATH"),
		Long: `Store a value. It is read from standard input or a file, whole, with its last newline if it
has one, and never from the command line, which other users can see.`,
		Example: `  printf %s "$PASSWORD" | runink secret put --herd analytics warehouse/password
  runink secret put --herd analytics --file key.pem tls/key`,
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			in := c.InOrStdin()
			if file != "" {
				f, err := os.Open(file)
				if err != nil {
					return errs.E(errs.NotFound, "secret put", "%w", err).WithField("--file")
				}
				defer f.Close()
				in = f
			}
			value, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
			if err != nil {
				return errs.E(errs.Internal, "secret put", "%w", err)
			}
			if len(value) > maxSecret {
				return errs.E(errs.Invalid, "secret put", "the value has more than %d bytes", maxSecret)
			}
			s, err := v1.NewSecretServiceClient(api).Put(c.Context(), &v1.PutSecretRequest{Herd: herd, Path: args[0], Value: value})
			if err != nil {
				return err
			}
			return emit(c, s, func(w io.Writer) {
				fmt.Fprintf(w, "%s/%s is at version %d\n", s.GetHerd(), s.GetPath(), s.GetVersion())
			})
		}),
	}
	c.Flags().StringVar(&herd, "herd", "", "the herd it belongs to")
	c.Flags().StringVar(&file, "file", "", "read the value from this file")
	addOutputFlag(c)
	return c
}

func newSecretListCmd() *cobra.Command {
	var herd string
	c := &cobra.Command{
		Use: "list --herd HERD", Short: "List a herd's secrets, without their values", Args: cobra.NoArgs,
		Example: "  runink secret list --herd analytics",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			resp, err := v1.NewSecretServiceClient(api).List(c.Context(), &v1.ListSecretsRequest{Herd: herd})
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "PATH", "VERSION", "UPDATED")
				for _, s := range resp.GetSecrets() {
					row(w, s.GetPath(), s.GetVersion(), when(s.GetUpdated()))
				}
			})
		}),
	}
	c.Flags().StringVar(&herd, "herd", "", "the herd")
	addOutputFlag(c)
	return c
}

func newSecretDeleteCmd() *cobra.Command {
	var herd string
	c := &cobra.Command{
		Use: "delete --herd HERD PATH", Short: "Delete a secret", Args: exactArgs(1, "PATH"),
		Example: "  runink secret delete --herd analytics warehouse/password",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewSecretServiceClient(api).Delete(c.Context(), &v1.DeleteSecretRequest{Herd: herd, Path: args[0]})
			return err
		}),
	}
	c.Flags().StringVar(&herd, "herd", "", "the herd")
	return c
}
