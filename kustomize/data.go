package kustomize

import "embed"

// Data holds the components that a new fleet repository starts with, below
// "components".
//
//go:embed all:components
var Data embed.FS
