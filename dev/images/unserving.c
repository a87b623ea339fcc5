/* A program that migrates and then does not serve: the image localhost/jam-api:unserving, for bad rollouts that get past their migration.

   How it fails is the pod's variable FATE:
     (none)  it says a word and ends
     never   it is alive and never ready
     flap    it is ready, then not for two probes, and so on
     late    the API serves; a worker works for LIFE seconds and from then on ends as soon as it is started again
     fine    it is the real program */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL "/usr/local/libexec/jam-api"
#define LIVED "/tmp/lived" /* this folder outlives the container */
#define LIFE 20            /* seconds: longer than a worker has to run before it counts as available */
#define UNREADY 4200       /* milliseconds: the kubelet hears the second no after 3000, and may ask again at once */

static int fail(const char *words) { return write(2, words, strlen(words)) < 0 ? 2 : 1; }

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

/* Whether the answer to this question of the kubelet is yes: once yes, then no until it was heard twice and UNREADY has passed.
   Nobody else's question counts: the operator asks the same, for the tokens that a pod accepts. */
static int ready(int flaps) {
  static int refused = -1;
  static long long since;
  if (!flaps) return 0;
  if (refused >= 2 && now() - since >= UNREADY) refused = -1;
  if (refused++ < 0) return 1;
  if (refused == 1) since = now();
  return 0;
}

static void end(int signal) { _exit(signal == SIGTERM ? 0 : 1); }

/* Answers 200 to everything but the question whether it is ready. */
static int answer(int flaps) {
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(8080)};
  struct timeval patience = {1, 0};
  char text[4096], reply[256];
  int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  signal(SIGTERM, end);
  signal(SIGPIPE, SIG_IGN);
  setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(server, (struct sockaddr *)&here, sizeof here) || listen(server, 64)) return fail("cannot listen\n");
  for (;;) {
    int client = accept(server, NULL, NULL);
    if (client < 0) continue;
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ssize_t got = read(client, text, sizeof text - 1);
    text[got > 0 ? got : 0] = 0;
    int good = strncmp(text, "GET /readyz ", 12) != 0;
    if (!good && strcasestr(text, "user-agent: kube-probe/")) good = ready(flaps);
    int length = snprintf(reply, sizeof reply, "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
                          good ? "200 OK" : "503 Service Unavailable");
    if (got > 0 && write(client, reply, length) == length) shutdown(client, SHUT_WR);
    close(client);
  }
}

/* Works for a while once, and never again in this pod. */
static int late(char **argv) {
  if (access(LIVED, F_OK) == 0) return fail("crashes late, on purpose\n");
  signal(SIGTERM, end); /* the first process of a container ends by no signal that it does not ask for */
  pid_t worker = fork();
  if (worker == 0) return execv(REAL, argv);
  sleep(LIFE);
  if (creat(LIVED, 0600) < 0) return fail("cannot note that it lived\n");
  kill(worker, SIGKILL);
  return fail("crashes late, on purpose\n");
}

int main(int argc, char **argv) {
  const char *fate = getenv("FATE"), *verb = argc > 1 ? argv[1] : "";
  if (!fate) fate = "";
  int serves = strcmp(verb, "serve") == 0, works = strcmp(verb, "work") == 0;
  if (works && strcmp(fate, "late") == 0) return late(argv);
  if (serves && strcmp(fate, "never") == 0) return answer(0);
  if (serves && strcmp(fate, "flap") == 0) return answer(1);
  if ((!serves && !works) || *fate) return execv(REAL, argv);
  return fail("does not serve, on purpose\n");
}
