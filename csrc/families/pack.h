/* A contiguous copy of a strided tensor in scratch memory, for kernels that take contiguous data
 * alone. */
#ifndef GEMS_PACK_H
#define GEMS_PACK_H

#include "call.h"

#define GEMS_PACK_KERNEL 255 /* key->kernel of the copy, in every family that uses it */

/* Copies t in its logical order; *data lives as long as the call. Data that is contiguous already
 * is not copied. GEMS_DECLINE when more dimensions are left after coalescing than the kernel takes.
 */
gems_status gems_pack(gems_call *call, const gems_tensor *t, const void **data);

/* The program of a key with kernel GEMS_PACK_KERNEL. */
gems_status gems_pack_program(const gems_key *key, gems_program *program);

#endif
