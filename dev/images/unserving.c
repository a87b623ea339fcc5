/* A program that migrates and then does not serve: the image localhost/jam-api:unserving, for a bad rollout that gets past its migration. */
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  static const char last_words[] = "does not serve, on purpose\n";
  if (argc > 1 && strcmp(argv[1], "migrate") == 0) {
    return execv("/usr/local/libexec/jam-api", argv);
  }
  return write(2, last_words, sizeof last_words - 1) < 0 ? 2 : 1;
}
