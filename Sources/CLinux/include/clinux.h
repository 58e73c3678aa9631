// What Swift cannot import from glibc and the kernel: macros, variadics and GNU-only calls. Thin, no logic.
#ifndef CAIRN_CLINUX_H
#define CAIRN_CLINUX_H
#endif
