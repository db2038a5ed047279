package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
)

// withoutBashCompletion goes behind the script that cobra makes for bash. That one calls two
// functions of the package bash-completion, which a plain Debian has not; where they are
// missing, these do as much of their work as the script asks for. The first may be in the way
// of nobody: it replaces a function of the script itself. A package that is loaded later
// brings its own _filedir.
const withoutBashCompletion = `
if ! declare -F _get_comp_words_by_ref >/dev/null; then
    # Bash cuts the line at each = and :, the program does not. A piece belongs to the one
    # before it if no white space is between them.
    __runink_init_completion()
    {
        local line=$COMP_LINE i piece before=
        COMPREPLY=() words=() cword=0
        for ((i = 0; i < ${#COMP_WORDS[@]}; i++)); do
            piece=${COMP_WORDS[i]}
            if ((i > 0)) && [[ $line != [[:space:]]* && ($piece == [=:]* || $before == *[=:]) ]]; then
                words[${#words[@]} - 1]+=$piece
            else
                words+=("$piece")
            fi
            if ((i == COMP_CWORD)); then
                cword=$((${#words[@]} - 1))
            fi
            line=${line#*"$piece"} before=$piece
        done
        cur=${words[cword]} prev=
        if ((cword > 0)); then
            prev=${words[cword - 1]}
        fi
    }
fi
if ! declare -F _filedir >/dev/null; then
    # Files by their endings, "dsl|bundle|", or all; with -d only folders.
    _filedir()
    {
        local name
        compopt -o filenames 2>/dev/null
        while IFS= read -r name; do
            if [[ -d $name || -z ${1-} || $1 != -d && "|$1" == *"|${name##*.}|"* ]]; then
                COMPREPLY+=("$name")
            fi
        done < <(compgen -f -- "$cur")
    }
fi
`

// addCompletionCmd gives root cobra's command that prints the completions of a shell. For
// bash it adds what one without its package needs; and all are printed to where the output
// goes when they are run: cobra's own would go to where it went when the command was made.
func addCompletionCmd(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		for _, shell := range c.Commands() {
			shell.RunE = printCompletion
		}
	}
}

func printCompletion(c *cobra.Command, _ []string) error {
	bare, err := c.Flags().GetBool("no-descriptions")
	if err != nil {
		return err
	}
	root, out := c.Root(), c.OutOrStdout()
	switch c.Name() {
	case "bash":
		if err := root.GenBashCompletionV2(out, !bare); err != nil {
			return err
		}
		_, err := fmt.Fprint(out, withoutBashCompletion)
		return err
	case "zsh":
		if bare {
			return root.GenZshCompletionNoDesc(out)
		}
		return root.GenZshCompletion(out)
	case "fish":
		return root.GenFishCompletion(out, !bare)
	case "powershell":
		if bare {
			return root.GenPowerShellCompletion(out)
		}
		return root.GenPowerShellCompletionWithDesc(out)
	}
	return errs.E(errs.Unimplemented, c.CommandPath(), "there are no completions for this shell")
}
