/*
 * A program that uses OpenSSL like a server, in ordinary and in unusual situations.
 *
 *     host MODE CERTIFICATE REFERENCE [NUMBER]
 *
 * Prints one line of results and exits with 0 if everything succeeded. The comment of each function
 * says what its MODE does. With TLS12_CIPHERS in the environment, handshakes use TLS 1.2 and one of
 * these ciphers.
 *
 * The file has more than 500 lines: it is one table of modes, and each mode is short.
 */
/* close_range(2) and memfd_create(2). */
#define _GNU_SOURCE
/* Some functions that programs call are deprecated since 3.0. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <fcntl.h>
#include <openssl/async.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/store.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *certificate, *reference;
static int number;

#define REQUIRE(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            ERR_print_errors_fp(stderr); \
            exit(1); \
        } \
    } while (0)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int open_descriptors(void) {
    int open = 0;
    for (int fd = 0; fd < 1024; fd++)
        open += fcntl(fd, F_GETFD) != -1;
    return open;
}

static SSL_CTX *server_context(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    REQUIRE(context);
    REQUIRE(SSL_CTX_use_certificate_chain_file(context, certificate) == 1);
    REQUIRE(SSL_CTX_use_PrivateKey_file(context, reference, SSL_FILETYPE_PEM) == 1);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    return context;
}

static SSL_CTX *client_context(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    const char *ciphers = getenv("TLS12_CIPHERS");
    REQUIRE(context);
    if (ciphers) {
        REQUIRE(SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION) == 1);
        REQUIRE(SSL_CTX_set_cipher_list(context, ciphers) == 1);
    }
    return context;
}

static EVP_PKEY *load_key(void) {
    BIO *file = BIO_new_file(reference, "r");
    REQUIRE(file);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    REQUIRE(key);
    BIO_free(file);
    return key;
}

/* The message that a server signs in TLS 1.3 (RFC 8446, 4.4.3), with a transcript hash of `fill`
   bytes. */
static size_t certificate_verify(unsigned char message[130], int fill) {
    memset(message, 0x20, 64);
    memcpy(message + 64, "TLS 1.3, server CertificateVerify", 34);
    memset(message + 98, fill, 32);
    return 130;
}

/* The public key alone, with which OpenSSL's own provider verifies. */
static EVP_PKEY *public_half(EVP_PKEY *key) {
    unsigned char *der = NULL;
    int length = i2d_PUBKEY(key, &der);
    if (length <= 0)
        return NULL;
    const unsigned char *start = der;
    EVP_PKEY *public = d2i_PUBKEY(NULL, &start, length);
    OPENSSL_free(der);
    return public;
}

/* Signs like TLS, and verifies. Returns whether both succeeded. */
static int sign(EVP_PKEY *key, int fill) {
    unsigned char message[130], signature[8192];
    size_t length = sizeof(signature), size = certificate_verify(message, fill);
    const EVP_MD *digest = EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_is_a(key, "EC") ? EVP_sha256() : NULL;
    EVP_PKEY *public = public_half(key);
    int done = public != NULL;
    for (int verify = 0; verify < 2 && done; verify++) {
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        EVP_PKEY_CTX *details = NULL;
        done = verify ? EVP_DigestVerifyInit(context, &details, digest, NULL, public) == 1
                      : EVP_DigestSignInit(context, &details, digest, NULL, key) == 1;
        if (done && EVP_PKEY_is_a(key, "RSA"))
            done = EVP_PKEY_CTX_set_rsa_padding(details, RSA_PKCS1_PSS_PADDING) == 1;
        if (done)
            done = verify ? EVP_DigestVerify(context, signature, length, message, size) == 1
                          : EVP_DigestSign(context, signature, &length, message, size) == 1;
        EVP_MD_CTX_free(context);
    }
    EVP_PKEY_free(public);
    return done;
}

/* The two ends of a handshake in memory. */
struct pair {
    SSL *server, *client;
};

static struct pair make_pair(SSL_CTX *server, SSL_CTX *client, int async) {
    struct pair pair = {SSL_new(server), SSL_new(client)};
    BIO *one, *other;
    REQUIRE(pair.server && pair.client && BIO_new_bio_pair(&one, 0, &other, 0));
    SSL_set_bio(pair.server, one, one);
    SSL_set_bio(pair.client, other, other);
    SSL_set_accept_state(pair.server);
    SSL_set_connect_state(pair.client);
    if (async)
        SSL_set_mode(pair.server, SSL_MODE_ASYNC);
    return pair;
}

static void free_pair(struct pair pair) {
    SSL_free(pair.server);
    SSL_free(pair.client);
}

enum progress { FAILED, DONE, PAUSED };

static enum progress failed(void) {
    ERR_print_errors_fp(stderr);
    return FAILED;
}

/* Continues a handshake as far as possible without waiting. */
static enum progress go_on(struct pair pair) {
    for (;;) {
        int client = SSL_do_handshake(pair.client);
        if (client != 1 && SSL_get_error(pair.client, client) != SSL_ERROR_WANT_READ)
            return failed();
        int server = SSL_do_handshake(pair.server);
        if (server == 1 && client == 1)
            return DONE;
        int error = server == 1 ? SSL_ERROR_NONE : SSL_get_error(pair.server, server);
        if (error == SSL_ERROR_WANT_ASYNC)
            return PAUSED;
        if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ)
            return failed();
    }
}

/* Adds the descriptors that a paused server waits for. Returns their number. */
static int add_descriptors(struct pair pair, struct pollfd *polls) {
    OSSL_ASYNC_FD descriptors[32];
    size_t count = 32;
    REQUIRE(SSL_get_all_async_fds(pair.server, NULL, &count) && count <= 32);
    REQUIRE(SSL_get_all_async_fds(pair.server, descriptors, &count));
    for (size_t i = 0; i < count; i++)
        polls[i] = (struct pollfd){.fd = descriptors[i], .events = POLLIN};
    return (int)count;
}

/* Makes NUMBER handshakes, one after another. */
static int handshakes(void) {
    SSL_CTX *server = server_context(), *client = client_context();
    for (int i = 0; i < number; i++) {
        struct pair pair = make_pair(server, client, 0);
        REQUIRE(go_on(pair) == DONE);
        free_pair(pair);
    }
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    printf("done=%d\n", number);
    return 0;
}

/* Makes NUMBER handshakes at once in one thread. Prints the time, and how many were paused at the
   same time. */
static int async(void) {
    SSL_CTX *server = server_context(), *client = client_context();
    struct pair *pairs = calloc(number, sizeof(*pairs));
    struct pollfd *polls = calloc(number, 32 * sizeof(*polls));
    enum progress *states = calloc(number, sizeof(*states));
    int lost = 0, most = 0, left = number, resumed = 0;
    double begin = now();
    for (int i = 0; i < number; i++) {
        pairs[i] = make_pair(server, client, 1);
        states[i] = go_on(pairs[i]);
    }
    for (;;) {
        int waiting = 0, watched = 0;
        left = 0;
        for (int i = 0; i < number; i++)
            if (states[i] == PAUSED) {
                int count = add_descriptors(pairs[i], polls + watched);
                REQUIRE(count > 0);
                watched += count;
                waiting++;
                left++;
            }
        if (left == 0)
            break;
        most = waiting > most ? waiting : most;
        REQUIRE(poll(polls, watched, 20000) > 0);
        for (int i = 0; i < number; i++)
            if (states[i] == PAUSED) {
                struct pollfd own[32];
                int count = add_descriptors(pairs[i], own);
                if (poll(own, count, 0) > 0) {
                    resumed++;
                    states[i] = go_on(pairs[i]);
                }
            }
    }
    double took = now() - begin;
    for (int i = 0; i < number; i++) {
        lost += states[i] != DONE;
        free_pair(pairs[i]);
    }
    free(pairs);
    free(polls);
    free(states);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    printf("failed=%d paused=%d resumed=%d seconds=%.4f\n", lost, most, resumed, took);
    return lost > 0;
}

/* Gives up NUMBER handshakes during a pause. None of our descriptors may stay open. */
static int abandon(void) {
    SSL_CTX *server = server_context(), *client = client_context();
    int before = 0, after = 0;
    for (int i = 0; i < number; i++) {
        struct pair pair = make_pair(server, client, 1);
        REQUIRE(go_on(pair) == PAUSED);
        free_pair(pair);
        after = open_descriptors();
        if (i == 0)
            before = after;
    }
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    printf("left=%d\n", after - before);
    return after != before;
}

/* Resumes paused handshakes at once, without a look at the descriptors. */
static int eager(void) {
    SSL_CTX *server = server_context(), *client = client_context();
    int resumed = 0;
    for (int i = 0; i < number; i++) {
        struct pair pair = make_pair(server, client, 1);
        enum progress state;
        while ((state = go_on(pair)) == PAUSED)
            resumed++;
        REQUIRE(state == DONE);
        free_pair(pair);
    }
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    printf("resumed=%d\n", resumed);
    return 0;
}

static int sign_in_job(void *argument) {
    EVP_PKEY *key = *(EVP_PKEY **)argument;
    ASYNC_block_pause();
    int done = sign(key, 1);
    ASYNC_unblock_pause();
    return done;
}

/* Signs in a job that must not be paused. */
static int blocked(void) {
    EVP_PKEY *key = load_key();
    ASYNC_WAIT_CTX *context = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int done = 0;
    REQUIRE(ASYNC_start_job(&job, context, &done, sign_in_job, &key, sizeof(key)) == ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(context);
    EVP_PKEY_free(key);
    printf("done=%d\n", done);
    return !done;
}

struct signing {
    EVP_PKEY *key;
    int fill;
};

static int sign_in_shared_context(void *argument) {
    struct signing *signing = argument;
    int done = sign(signing->key, signing->fill);
    if (!done)
        ERR_print_errors_fp(stderr);
    return done;
}

/* Runs two jobs with one wait context, which libssl never does. No job may get the answer for the
   other job. */
static int shared_context(void) {
    ASYNC_WAIT_CTX *context = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *jobs[2] = {NULL, NULL};
    struct signing signings[2] = {{load_key(), 1}, {NULL, 2}};
    int done[2] = {-1, -1};
    signings[1].key = signings[0].key;
    for (int i = 0; i < 2; i++)
        REQUIRE(ASYNC_start_job(&jobs[i], context, &done[i], sign_in_shared_context, &signings[i],
                                sizeof(*signings)) == ASYNC_PAUSE);
    for (int i = 0; i < 2; i++) {
        int state;
        while ((state = ASYNC_start_job(&jobs[i], context, &done[i], sign_in_shared_context, NULL, 0)) == ASYNC_PAUSE)
            ;
        REQUIRE(state == ASYNC_FINISH);
    }
    ASYNC_WAIT_CTX_free(context);
    EVP_PKEY_free(signings[0].key);
    printf("first=%d second=%d\n", done[0], done[1]);
    return 0;
}

/* The stacks of jobs, filled with PAINT. Bytes that are still PAINT afterwards were not used. */
enum { STACK = 32768, PAINT = 0xa5, MOST_STACKS = 64 };
static unsigned char *stacks[MOST_STACKS];
static int stack_count;

static void *painted(size_t size, const char *file, int line) {
    (void)file, (void)line;
    unsigned char *memory = malloc(size);
    if (size == STACK && memory && stack_count < MOST_STACKS) {
        memset(memory, PAINT, size);
        stacks[stack_count++] = memory;
    }
    return memory;
}

static void *plain_realloc(void *old, size_t size, const char *file, int line) {
    (void)file, (void)line;
    return realloc(old, size);
}

static void plain_free(void *old, const char *file, int line) {
    (void)file, (void)line;
    free(old);
}

/* Measures how much of the stack of a job whole handshakes use. Must run before OpenSSL allocates
   memory. */
static int stack(void) {
    REQUIRE(CRYPTO_set_mem_functions(painted, plain_realloc, plain_free));
    SSL_CTX *server = server_context(), *client = client_context();
    int most = 0;
    for (int i = 0; i < number; i++) {
        struct pair pair = make_pair(server, client, 1);
        while (go_on(pair) == PAUSED) {
            struct pollfd polls[32];
            REQUIRE(poll(polls, add_descriptors(pair, polls), 20000) > 0);
        }
        for (int j = 0; j < stack_count; j++) {
            int clean = 0;
            while (clean < STACK && stacks[j][clean] == PAINT)
                clean++;
            most = STACK - clean > most ? STACK - clean : most;
        }
        free_pair(pair);
    }
    REQUIRE(stack_count > 0);
    printf("stacks=%d used=%d\n", stack_count, most);
    return 0;
}

/* Waits for a child. Returns whether the child exited with 0. */
static int ended_well(pid_t child) {
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Forks a child that signs NUMBER times and exits. The child loads its own key if `key` is NULL. */
static pid_t signing_child(EVP_PKEY *key) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (!key)
            key = load_key();
        for (int i = 0; i < number; i++)
            REQUIRE(sign(key, i));
        EVP_PKEY_free(key);
        exit(0);
    }
    return child;
}

/* Forks before the key is loaded, after it is loaded, and after it has signed. Parent and children
   sign at the same time. */
static int forks(void) {
    pid_t before = signing_child(NULL);
    EVP_PKEY *key = load_key();
    pid_t loaded = signing_child(key);
    REQUIRE(sign(key, 0));
    pid_t used = signing_child(key), again = signing_child(key);
    for (int i = 0; i < number; i++)
        REQUIRE(sign(key, i));
    EVP_PKEY_free(key);
    int well = ended_well(before) + ended_well(loaded) + ended_well(used) + ended_well(again);
    printf("well=%d\n", well);
    return well != 4;
}

static EVP_PKEY *shared;
static int wrong;

static void *signing_thread(void *fill) {
    for (int i = 0; i < number; i++)
        if (!sign(shared, (int)(long)fill + i)) {
            ERR_print_errors_fp(stderr);
            __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
        }
    return NULL;
}

enum { THREADS = 64 };

/* Signs with one key in 64 threads, NUMBER times in each. */
static int threads(void) {
    pthread_t all[THREADS];
    shared = load_key();
    for (long i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&all[i], NULL, signing_thread, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_join(all[i], NULL) == 0);
    EVP_PKEY_free(shared);
    printf("wrong=%d\n", wrong);
    return wrong > 0;
}

/* Returns whether a thread waits for an answer in the kernel. */
static int is_waiting(pid_t thread) {
    char path[64], text[32] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", thread);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    int read = fgets(text, sizeof(text), file) != NULL;
    fclose(file);
    long call = strtol(text, NULL, 10);
    return read && call == SYS_recvfrom;
}

enum { WAITING = 8 };
static pthread_t waiting[WAITING];
static pid_t waiting_ids[WAITING];

static void *waiting_thread(void *place) {
    __atomic_store_n((pid_t *)place, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
    return signing_thread(0);
}

/* Starts threads that sign once each, and returns when each thread waits for its answer. Then no
   thread holds a lock of OpenSSL, which would block a child or an exit. Needs a slow daemon. */
static void start_waiting(void) {
    shared = load_key();
    REQUIRE(sign(shared, 0));
    number = 1;
    for (int i = 0; i < WAITING; i++)
        REQUIRE(pthread_create(&waiting[i], NULL, waiting_thread, &waiting_ids[i]) == 0);
    /* The second look shows that the first threads still wait when the last one does. The kernel
       wakes a thread for a moment when the daemon takes the request. */
    double end = now() + 20;
    for (int look = 0; look < 2; look++) {
        for (int i = 0; i < WAITING; i++) {
            pid_t thread;
            while ((thread = __atomic_load_n(&waiting_ids[i], __ATOMIC_ACQUIRE)) == 0 || !is_waiting(thread)) {
                REQUIRE(now() < end);
                sched_yield();
            }
        }
    }
}

/* Forks while other threads wait for answers. */
static int fork_mid_request(void) {
    start_waiting();
    int well = 0;
    pid_t children[2] = {signing_child(shared), signing_child(NULL)};
    for (int i = 0; i < 2; i++)
        well += ended_well(children[i]);
    for (int i = 0; i < WAITING; i++)
        REQUIRE(pthread_join(waiting[i], NULL) == 0);
    EVP_PKEY_free(shared);
    printf("well=%d wrong=%d\n", well, wrong);
    return well != 2 || wrong > 0;
}

/* Forks while a handshake is paused. Child and parent each continue their copy of the handshake. */
static int fork_paused(void) {
    SSL_CTX *server = server_context(), *client = client_context();
    struct pair pair = make_pair(server, client, 1);
    REQUIRE(go_on(pair) == PAUSED);
    pid_t child = fork();
    REQUIRE(child >= 0);
    enum progress state;
    while ((state = go_on(pair)) == PAUSED) {
        struct pollfd polls[32];
        REQUIRE(poll(polls, add_descriptors(pair, polls), 20000) > 0);
    }
    REQUIRE(state == DONE);
    free_pair(pair);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    if (child == 0)
        exit(0);
    int well = ended_well(child);
    printf("well=%d\n", well);
    return !well;
}

/* Exits while other threads wait for answers. */
static int exit_mid_request(void) {
    start_waiting();
    printf("waiting=%d\n", WAITING);
    return 0;
}

/* Loads a plain key file NUMBER times. */
static int loads(void) {
    double begin = now();
    for (int i = 0; i < number; i++)
        EVP_PKEY_free(load_key());
    printf("seconds=%.6f\n", now() - begin);
    return 0;
}

/* Loads a key from a file and from memory, and signs with it, while the queue holds an earlier
   error. */
static int signs_after_an_error(void) {
    static char text[1 << 20];
    FILE *file = fopen(reference, "r");
    REQUIRE(file);
    size_t length = fread(text, 1, sizeof(text), file);
    fclose(file);
    BIO *inputs[2] = {BIO_new_file(reference, "r"), BIO_new_mem_buf(text, (int)length)};
    for (int i = 0; i < 2; i++) {
        REQUIRE(inputs[i]);
        ERR_raise(ERR_LIB_X509, X509_R_KEY_VALUES_MISMATCH);
        EVP_PKEY *key = PEM_read_bio_PrivateKey(inputs[i], NULL, NULL, NULL);
        REQUIRE(key && sign(key, i));
        /* A program reads next what follows the key in the file. */
        X509 *behind = PEM_read_bio_X509(inputs[i], NULL, NULL, NULL);
        printf("behind=%d\n", behind != NULL);
        X509_free(behind);
        ERR_clear_error();
        EVP_PKEY_free(key);
        BIO_free(inputs[i]);
    }
    return 0;
}

/* Counts the certificates and keys that OSSL_STORE finds in a file, if it looks for everything, for
   certificates alone, and for keys alone. If NUMBER is not 0, the queue holds an earlier error. */
static int store(void) {
    static const struct {
        const char *name;
        int type;
    } EXPECTED[] = {{"all", 0}, {"certificates", OSSL_STORE_INFO_CERT}, {"keys", OSSL_STORE_INFO_PKEY}};
    for (size_t i = 0; i < sizeof(EXPECTED) / sizeof(*EXPECTED); i++) {
        int certificates = 0, keys = 0;
        if (number)
            ERR_raise(ERR_LIB_X509, X509_R_KEY_VALUES_MISMATCH);
        OSSL_STORE_CTX *opened = OSSL_STORE_open(reference, NULL, NULL, NULL, NULL);
        REQUIRE(opened);
        REQUIRE(EXPECTED[i].type == 0 || OSSL_STORE_expect(opened, EXPECTED[i].type) == 1);
        while (!OSSL_STORE_eof(opened)) {
            OSSL_STORE_INFO *info = OSSL_STORE_load(opened);
            if (!info)
                continue;
            EVP_PKEY *key = OSSL_STORE_INFO_get0_PKEY(info);
            certificates += OSSL_STORE_INFO_get_type(info) == OSSL_STORE_INFO_CERT;
            keys += key != NULL && sign(key, 1);
            OSSL_STORE_INFO_free(info);
        }
        OSSL_STORE_close(opened);
        ERR_clear_error();
        printf("%s=%d+%d ", EXPECTED[i].name, certificates, keys);
    }
    printf("\n");
    return 0;
}

/* Asks for the objects of OpenSSL 1.1, which cannot represent a key that is not in the process. The
   answer is NULL, and the key still signs. */
static int legacy_objects(void) {
    EVP_PKEY *key = load_key();
    int rsa = EVP_PKEY_get0_RSA(key) != NULL, ec = EVP_PKEY_get0_EC_KEY(key) != NULL;
    ERR_clear_error();
    REQUIRE(sign(key, 1));
    EVP_PKEY_free(key);
    printf("rsa=%d ec=%d\n", rsa, ec);
    return 0;
}

/* Reads a file by its PEM labels, like programs that do not use decoders. This function knows only
   the labels of key files. */
static int labels(void) {
    BIO *file = BIO_new_file(reference, "r");
    STACK_OF(X509_INFO) *infos = PEM_X509_INFO_read_bio(file, NULL, NULL, NULL);
    int certificates = 0, keys = 0;
    REQUIRE(file && infos);
    for (int i = 0; i < sk_X509_INFO_num(infos); i++) {
        certificates += sk_X509_INFO_value(infos, i)->x509 != NULL;
        keys += sk_X509_INFO_value(infos, i)->x_pkey != NULL;
    }
    sk_X509_INFO_pop_free(infos, X509_INFO_free);
    BIO_free(file);
    printf("certificates=%d keys=%d\n", certificates, keys);
    return 0;
}

/* Signs NUMBER times. */
static int signs(void) {
    EVP_PKEY *key = load_key();
    for (int i = 0; i < number; i++)
        REQUIRE(sign(key, i));
    EVP_PKEY_free(key);
    printf("signed=%d\n", number);
    return 0;
}

/* Closes all descriptors after a signature, as a program does that becomes a daemon without fork,
   and opens files under the numbers. Then signs again. Counts the files that are open and empty. */
static int closes_all(void) {
    enum { FILES = 32 };
    EVP_PKEY *key = load_key();
    for (int i = 0; i < 3; i++)
        REQUIRE(sign(key, i));
    REQUIRE(close_range(3, ~0U, 0) == 0);
    int files[FILES];
    for (int i = 0; i < FILES; i++)
        REQUIRE((files[i] = memfd_create("file", 0)) == 3 + i);
    for (int i = 0; i < number; i++)
        REQUIRE(sign(key, i));
    int intact = 0;
    for (int i = 0; i < FILES; i++) {
        struct stat file;
        intact += fstat(files[i], &file) == 0 && S_ISREG(file.st_mode) && file.st_size == 0;
    }
    EVP_PKEY_free(key);
    printf("signed=%d intact=%d\n", number, intact);
    return 0;
}

/* The message that a server signs in TLS 1.2 with X25519 (RFC 5246, 7.4.3, and RFC 8422, 5.4) if it
   also offers TLS 1.3 (RFC 8446, 4.1.3). Randoms and public value consist of `fill` bytes. */
static size_t server_key_exchange(unsigned char message[130], int fill) {
    static const unsigned char sentinel[] = {0x44, 0x4f, 0x57, 0x4e, 0x47, 0x52, 0x44, 0x01};
    static const unsigned char x25519[] = {3, 0, 0x1d, 32};
    /* The high bit makes sure that the message is not text, which the daemon refuses. */
    memset(message, fill | 0x80, 100);
    memcpy(message + 56, sentinel, sizeof(sentinel));
    memcpy(message + 64, x25519, sizeof(x25519));
    return 100;
}

/* Signs NUMBER times and does nothing else, so that only signatures are counted where instructions
   are counted. The pauses make the daemon wait for each request: without them it sometimes takes
   another path. */
static int paced(size_t (*compose)(unsigned char[130], int)) {
    const struct timespec pause = {.tv_nsec = 1000000};
    EVP_PKEY *key = load_key();
    for (int i = 0; i < number; i++) {
        unsigned char message[130], signature[8192];
        size_t length = sizeof(signature), size = compose(message, i & 0x3f);
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        REQUIRE(EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) == 1);
        REQUIRE(EVP_DigestSign(context, signature, &length, message, size) == 1);
        EVP_MD_CTX_free(context);
        nanosleep(&pause, NULL);
    }
    EVP_PKEY_free(key);
    printf("signed=%d\n", number);
    return 0;
}

static int paced_tls13(void) {
    return paced(certificate_verify);
}

static int paced_tls12(void) {
    return paced(server_key_exchange);
}

static const struct {
    const char *name;
    int (*run)(void);
} MODES[] = {
    {"handshakes", handshakes},
    {"async", async},
    {"abandon", abandon},
    {"eager", eager},
    {"blocked", blocked},
    {"shared-context", shared_context},
    {"stack", stack},
    {"forks", forks},
    {"fork-mid-request", fork_mid_request},
    {"fork-paused", fork_paused},
    {"threads", threads},
    {"exit-mid-request", exit_mid_request},
    {"labels", labels},
    {"legacy-objects", legacy_objects},
    {"loads", loads},
    {"signs", signs},
    {"closes-all", closes_all},
    {"store", store},
    {"signs-after-an-error", signs_after_an_error},
    {"paced-tls13", paced_tls13},
    {"paced-tls12", paced_tls12},
};

int main(int argc, char **argv) {
    if (argc >= 4) {
        certificate = argv[2];
        reference = argv[3];
        number = argc > 4 ? atoi(argv[4]) : 1;
        for (size_t i = 0; i < sizeof(MODES) / sizeof(*MODES); i++)
            if (strcmp(argv[1], MODES[i].name) == 0)
                return MODES[i].run();
    }
    fprintf(stderr, "usage: host MODE CERTIFICATE REFERENCE [NUMBER]\n");
    return 64;
}
