//go:build vm

package sandbox

import "testing"

// The same guards, by the kernel and on the root file system of the image.

func TestVMGuards(t *testing.T)              { TestGuards(t) }
func TestVMNeverGiven(t *testing.T)          { TestNeverGiven(t) }
func TestVMWhatASliceSees(t *testing.T)      { TestWhatASliceSees(t) }
func TestVMFullTmp(t *testing.T)             { TestFullTmp(t) }
func TestVMFileSizeLimit(t *testing.T)       { TestFileSizeLimit(t) }
func TestVMExitStatus(t *testing.T)          { TestExitStatusAndStreams(t) }
func TestVMSetupFailureIsNamed(t *testing.T) { TestSetupFailureIsNamed(t) }
func TestVMWaitingHoldsNothing(t *testing.T) { TestWaitingHoldsNothing(t) }
func TestVMUsersThatCannotBe(t *testing.T)   { TestUsersThatCannotBe(t) }
