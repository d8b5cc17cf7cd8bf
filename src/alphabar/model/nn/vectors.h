/* Eight channels at a time. Tensors are float32 with channels innermost. */

#include <stddef.h>

#define WIDE 8

typedef float vec __attribute__((vector_size(4 * WIDE)));
/* the same in memory, wherever it begins */
typedef float loose __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return *(const loose *)from; }
INLINE void store(float *to, vec from) { *(loose *)to = from; }
