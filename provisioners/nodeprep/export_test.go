package nodeprep

// What tests ask of single functions.
var (
	XFSConfigFor = xfsConfigFor
	UnitName     = unitName
)
