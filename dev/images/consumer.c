/* A consumer in a pod, for tests of rotations: jam-consumer ADDRESS PORT PATH FILE

   Asks ADDRESS:PORT for PATH fifty times a second, each time on a new connection and with the Authorization header that FILE holds at
   that moment, and says once a second what it was answered. It never says what the file holds. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;
static void stop(int signal) { stopped = signal; }

static size_t contents(const char *name, char *buffer, size_t room) {
  FILE *file = fopen(name, "r");
  size_t length = file ? fread(buffer, 1, room - 1, file) : 0;
  if (file) fclose(file);
  buffer[length] = 0;
  return length;
}

/* The status of one request; 0 when there was no answer. */
static int ask(const struct sockaddr_in *server, const char *path, const char *authorization) {
  char text[4096];
  struct timeval patience = {10, 0};
  int status = 0, there = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (there < 0) return 0;
  setsockopt(there, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(there, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nhost: jam\r\nconnection: close\r\nauthorization: %s\r\n\r\n", path, authorization);
  if (connect(there, (const struct sockaddr *)server, sizeof *server) == 0 && write(there, text, length) == length) {
    ssize_t got, all = 0;
    while (all < (ssize_t)sizeof text - 1 && (got = read(there, text + all, sizeof text - 1 - all)) > 0) all += got;
    text[all] = 0;
    if (sscanf(text, "HTTP/1.1 %d", &status) != 1) status = 0;
  }
  close(there);
  return status;
}

int main(int count, char **arguments) {
  if (count != 5) return 2;
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
  if (inet_pton(AF_INET, arguments[1], &server.sin_addr) != 1) return 2;
  signal(SIGTERM, stop);
  signal(SIGPIPE, SIG_IGN);
  char token[2048], before[2048] = "";
  long good = 0, unauthorized = 0, other = 0, unanswered = 0, tokens = 0, said = 0;
  while (!stopped) {
    if (contents(arguments[4], token, sizeof token) && strcmp(token, before)) {
      strcpy(before, token);
      tokens++;
    }
    int status = ask(&server, arguments[3], token);
    if (status >= 200 && status < 300) good++;
    else if (status == 401) unauthorized++;
    else if (status) other++;
    else unanswered++;
    if (time(NULL) != said) {
      said = time(NULL);
      printf("{\"good\": %ld, \"unauthorized\": %ld, \"other\": %ld, \"unanswered\": %ld, \"tokens\": %ld}\n", good, unauthorized, other, unanswered, tokens);
      fflush(stdout);
    }
    nanosleep(&(struct timespec){0, 20 * 1000 * 1000}, NULL);
  }
  return 0;
}
