/* A program that fails at once: the image localhost/jam-api:broken, for tests of a bad rollout. */
#include <unistd.h>

int main(void) {
  static const char last_words[] = "broken on purpose\n";
  return write(2, last_words, sizeof last_words - 1) < 0 ? 2 : 1;
}
