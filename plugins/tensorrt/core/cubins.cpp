// The cubins as bytes of this library, without a CUDA compiler: the assembler includes the file.
#include "core/cubins.h"

__asm__(
    ".pushsection .rodata, \"a\"\n"
    ".balign 64\n"
    ".hidden acm_cubins\n"
    ".global acm_cubins\n"
    "acm_cubins:\n"
    ".incbin \"" ACM_CUBINS_FILE
    "\"\n"
    ".byte 0\n"
    ".popsection\n");
