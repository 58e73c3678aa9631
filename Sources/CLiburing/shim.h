// In this order, or a clean build fails on fd_set.
#include <features.h>
#include <linux/io_uring.h>
#include <liburing.h>
