package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/agent/bootstrap"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/salt"
)

// agentImage is the image of the agent that joins a cluster.
const agentImage = "registry.holdfast.dev/holdfast-agent:v0.1.0"

// joinFlags say which hub is joined.
type joinFlags struct {
	dataDir, hubURL, hubCA, image, apply string
	admin                                bool
}

func newJoin() *cobra.Command {
	var j joinFlags
	cmd := &cobra.Command{
		Use:   "join CLUSTER",
		Short: "Print the manifests that bring the agent into a cluster",
		Long: `Print the manifests that bring the agent into a cluster, with a token for its first certificate.

Run it where the hub's data directory is, as the hub's user, and hand the output to the cluster within a day:

  holdfast join az1-c1 --data-dir /var/lib/holdfast-hub --hub https://hub:9812 | kubectl apply --server-side -f -

The token is good once. What the cluster had before, token or certificate, is no longer good: so this is
also what to do when a cluster was taken over, or its identity lost.

With --admin, and a person's name if there are several, the credential is printed that "holdfast status" and others need:

  (umask 077; holdfast join --admin --data-dir /var/lib/holdfast-hub --hub https://hub:9812 > ~/.holdfast)
  export HOLDFAST_HUB=https://hub:9812 HOLDFAST_CREDENTIAL_FILE=~/.holdfast`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if j.dataDir == "" {
				return errors.New("--data-dir is empty; give the hub's data directory")
			}
			if j.admin {
				return j.person(cmd, append(args, "admin")[0])
			}
			if len(args) != 1 {
				return errors.New("give one cluster's name, as in fleet.yaml")
			}
			return j.cluster(cmd, args[0])
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&j.dataDir, "data-dir", "", "the hub's data directory")
	fs.StringVar(&j.hubURL, "hub", "", "URL under which the hub is reached; its certificate will have this name")
	fs.StringVar(&j.hubCA, "hub-ca-file", "", "PEM file with the authorities of the hub's certificate, if it is not of the hub's own authority")
	fs.StringVar(&j.image, "image", agentImage, "image of the agent")
	fs.StringVar(&j.apply, "apply", "agent", "who applies the bundle: agent, or other (Flux, Argo CD; the agent may only read)")
	fs.BoolVar(&j.admin, "admin", false, "print the credential of a person instead")
	return cmd
}

// store opens the hub's trust store, makes the hub known by the name in its URL,
// and returns the authorities to know it by.
func (j *joinFlags) store() (*trust.Store, []byte, error) {
	if j.hubURL != "" {
		if u, err := url.Parse(j.hubURL); err != nil || u.Hostname() == "" || u.Scheme != "https" {
			return nil, nil, fmt.Errorf("--hub %q is not an https URL", j.hubURL)
		}
	}
	s, err := trust.Open(j.dataDir, time.Now)
	if err != nil {
		return nil, nil, err
	}
	if j.hubCA != "" {
		roots, err := os.ReadFile(j.hubCA)
		if err != nil {
			return nil, nil, fmt.Errorf("read authority of the hub: %w", err)
		}
		return s, roots, nil
	}
	if u, err := url.Parse(j.hubURL); err == nil && u.Hostname() != "" {
		if err := s.AddName(u.Hostname()); err != nil {
			return nil, nil, err
		}
	}
	roots, err := s.Roots()
	return s, roots, err
}

func (j *joinFlags) person(cmd *cobra.Command, name string) error {
	s, roots, err := j.store()
	if err != nil {
		return err
	}
	cred, err := s.Credential(trust.Identity{Kind: trust.Admin, Name: name}, roots)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(cred.Bytes())
	return err
}

func (j *joinFlags) cluster(cmd *cobra.Command, name string) error {
	if j.hubURL == "" {
		return errors.New("--hub is empty; give the URL under which the cluster reaches the hub")
	}
	if j.apply != "agent" && j.apply != "other" { // before the invitation, which ends what the cluster had
		return fmt.Errorf("--apply=%s is not known; give agent or other", j.apply)
	}
	s, roots, err := j.store()
	if err != nil {
		return err
	}
	o := bootstrap.Options{Cluster: name, Hub: j.hubURL, HubCA: roots, Image: j.image, Apply: j.apply}
	if o.StatusCRD, err = salt.Data.ReadFile("states/crds/files/holdfast.dev_addonstatuses.yaml"); err != nil {
		return err
	}
	if o.Signers, err = s.AllowedSigners(); err != nil {
		return err
	}
	if o.Token, err = s.Invite(trust.Identity{Kind: trust.Cluster, Name: name}); err != nil {
		return err
	}
	data, err := bootstrap.Manifests(o)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(data)
	return err
}

func newRotate() *cobra.Command {
	var dataDir string
	var compromised bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the hub's certificate authority",
		Long: `Replace the hub's certificate authority. It does so by itself every two years; this is for sooner.

Everybody hears of the new one when they renew their certificate, and after thirty days it signs: nothing else is to be done.
If the key of the present one may have been read, --compromised ends it, and all certificates of it, at once: then
every cluster and person has to join again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dataDir == "" {
				return errors.New("--data-dir is empty; give the hub's data directory")
			}
			s, err := trust.Open(dataDir, time.Now)
			if err != nil {
				return err
			}
			if err := s.Rotate(compromised); err != nil {
				return err
			}
			said := "a new certificate authority is made; it signs in thirty days"
			if compromised {
				said = "a new certificate authority is made, and the old ones are gone; let every cluster and person join again"
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
			return err
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "the hub's data directory")
	cmd.Flags().BoolVar(&compromised, "compromised", false, "end the present authority at once")
	return cmd
}
