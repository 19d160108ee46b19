#ifndef GEMS_PY_SEARCH_H
#define GEMS_PY_SEARCH_H

/* Tells the cuda backend the directories of sys.path. Called once at import, with the GIL. */
void gems_search_open(void);

#endif
