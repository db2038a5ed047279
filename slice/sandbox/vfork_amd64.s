#include "textflag.h"

// func vfork(args unsafe.Pointer, size uintptr, p *program) (errno uintptr)
//
// The new process has this one's memory and a stack of its own (args.stack), on which it calls
// runProgram, which does not return. What it finds in g is this thread's, and it does not use
// it. The kernel keeps this thread in the call until the new process executes or ends.
TEXT ·vfork(SB), NOSPLIT, $0-32
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	p+16(FP), BX	// a system call leaves it alone
	MOVL	$435, AX	// SYS_clone3
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	$0, CX
	CMPQ	AX, $-4095
	JCS	parent
	NEGQ	AX
	MOVQ	AX, CX
parent:
	MOVQ	CX, errno+24(FP)
	RET
child:
	XORL	BP, BP	// the end of the frames
	SUBQ	$16, SP
	MOVQ	BX, 0(SP)
	CALL	·runProgram(SB)
	INT	$3
