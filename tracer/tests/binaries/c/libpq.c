/* libpq LIBRARY CONNINFO OFFSET...: begins to connect with that library, then prints what PQsocket
 * says and the int at each offset of the PGconn. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	void *library = argc > 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	char *(*start)(const char *) = (char *(*)(const char *)) dlsym(library, "PQconnectStart");
	int (*socket)(const char *) = (int (*)(const char *)) dlsym(library, "PQsocket");
	char *conn = start(argv[2]);
	printf("%d\n", socket(conn));
	for (int i = 3; i < argc; i++)
		printf("%d\n", *(int *) (conn + atoi(argv[i])));
	return 0;
}
