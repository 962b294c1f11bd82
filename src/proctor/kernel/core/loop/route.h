/* What routes have in common that answer by themselves what others would be asked about otherwise. */
#pragma once
#include "core.h"
#include "holding.h"

/* What each holds, and what those hold besides that are answered by who performs. */
#define ROUTE share, *busy, *fallback
#define PERFORMING ROUTE, *find, *container

/* Whether a call may have to wait: for its turn, behind an earlier one of its caller, or since its number is known
 * for stalling; true with an exception, too. */
bool may_wait(PyObject *share, PyObject *busy, const struct seccomp_notif *raw);

/* What came of a call: nothing has happened, it is answered, or whoever goes on is to answer it. */
enum { NOTHING, REPLIED, GOES_ON };
/* Answer a call if that can be done at once; with an exception, too. */
typedef int answers(void *route, PyObject *notification, const struct seccomp_notif *raw);
/* Calling a route: with what came of it, or of its fallback.  Whatever is raised is answered, too. */
PyObject *routed(PyObject *route, PyObject *args, answers *answers);

/* Whether calls with these registers, of which those count that have a bit here, are some that `judge` says True of; asked once for
 * some that have the same (`judged`); true if there is no judge.  False with an exception. */
bool judged_so(PyObject *judge, PyObject *judged, unsigned int registers, PyObject *notification, const struct seccomp_notif *raw);

/* Count a call that was answered with this errno, or 0: where `cell_of` says that those are counted, which is kept. */
void count_came(PyObject *cells, PyObject *cell_of, int failed);

/* What a route's `find` gives, as its `native` says it; NULL without an exception: nobody performs yet, or not so. */
PyObject *native_of(PyObject *find);
