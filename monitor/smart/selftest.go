package smart

import "slices"

// selfTest is one result of a disk's log of self-tests. One that was aborted, or runs,
// has neither passed nor failed.
type selfTest struct {
	kind           uint8
	passed, failed bool
}

// extendedTest is the kind that reads the whole disk, the same in all three protocols: of ATA less the bit of captive
// tests, of SCSI less that of foreground ones (smartmontools' ataprint.cpp, scsiprint.cpp and nvmeprint.cpp).
const extendedTest = 0x02

// failures counts the results that are failures, and those of them that stand: no later test of the same
// kind, or extended one, has passed since. The newest result is the first; places that are not used, which
// read as passed, are the last. smartctl leaves out what a later
// extended test has outdated (smartmontools' ataprint.cpp, ataPrintSmartSelfTestlog).
func failures(results []selfTest) (all, standing *int) {
	all, standing = new(int), new(int)
	passed := map[uint8]bool{}
	for _, t := range results {
		switch {
		case t.failed:
			*all++
			if !passed[t.kind] && !passed[extendedTest] {
				*standing++
			}
		case t.passed:
			passed[t.kind] = true
		}
	}
	return all, standing
}

// ran says whether a log tells of any test. Places that are not used are zeros.
func ran(results []selfTest) bool {
	return slices.ContainsFunc(results, func(t selfTest) bool { return t != selfTest{passed: true} })
}

// ataTest is an entry of ATA's log (ATA/ATAPI-7, self-test execution status).
func ataTest(kind, status uint8) selfTest {
	return selfTest{kind & 0x7f, status>>4 == 0, ataTestFailed(status >> 4)}
}

// scsiTest is a parameter of SCSI's log (SPC-6, Self-Test Results log page).
func scsiTest(code, result uint8) selfTest {
	return selfTest{code & 0x3, result == 0, scsiTestFailed(result)}
}

// nvmeTest is a result of NVMe's log (Base Specification 2.0, Device Self-test log).
func nvmeTest(code, result uint8) selfTest {
	return selfTest{code, result == 0, nvmeTestFailed(result)}
}
