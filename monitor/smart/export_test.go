package smart

// AdminStatus reads the result of the ioctl for NVMe admin commands.
var AdminStatus = adminStatus
