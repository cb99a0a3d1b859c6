package smart

// Decode is an attribute's name and the part of its raw value that counts.
var Decode = (*DriveDB).attribute

// AdminStatus reads the result of the ioctl for NVMe admin commands.
var AdminStatus = adminStatus

// ParseSmartctl makes a report of what smartctl has printed.
var ParseSmartctl = parseSmartctl
