package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/gitrepo"
)

// actFlags are common to the commands by which a person acts on a rollout. Each
// makes an annotated tag in a clone of the fleet's repository and pushes it: git
// keeps who said what, when and about which commit.
type actFlags struct{ dir, remote, branch, message string }

func newApprove() *cobra.Command {
	var a actFlags
	cmd := &cobra.Command{
		Use:   "approve RING",
		Short: "Approve the present change for a ring that waits for a person",
		Long: `Approve the present change for a ring that waits for a person (approval: required in fleet.yaml).

The approval is an annotated tag, approve.RING.ID, of the newest commit of the fleet's branch. It holds for
what the ring's clusters are to run, and for nothing else: another change needs another approval. A hub with
--allowed-signers wants it signed: git config tag.gpgSign true.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.push(cmd, "approve."+args[0]) },
	}
	a.bind(cmd)
	return cmd
}

func newRetry() *cobra.Command {
	var a actFlags
	cmd := &cobra.Command{
		Use:   "retry",
		Short: "Try a change again that was rolled back",
		Long: `Try a change again that was rolled back, because what failed was not the change.

The word is an annotated tag, retry.ID, of the newest commit of the fleet's branch. Rings begin anew where
the rollout was taken back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.push(cmd, "retry") },
	}
	a.bind(cmd)
	return cmd
}

func (a *actFlags) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.dir, "repo", ".", "clone of the fleet's repository")
	cmd.Flags().StringVar(&a.remote, "remote", "origin", "the fleet's repository, as the clone calls it")
	cmd.Flags().StringVar(&a.branch, "branch", "main", "the fleet's branch")
	cmd.Flags().StringVarP(&a.message, "message", "m", "", "why; it stays on record")
}

func (a *actFlags) push(cmd *cobra.Command, name string) error {
	if a.message == "" {
		return errors.New("--message is empty; say why, it stays on record")
	}
	ctx := cmd.Context()
	repo, err := gitrepo.Open(ctx, a.dir, os.Environ(), false)
	if err != nil {
		return err
	}
	commit, err := repo.RemoteHead(ctx, a.remote, a.branch)
	if err != nil {
		return err
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	name += "." + time.Now().UTC().Format("20060102t150405z") + hex.EncodeToString(id)
	if err := repo.PushTag(ctx, a.remote, name, commit, a.message); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s of commit %.12s is on record\n", name, commit)
	return err
}
