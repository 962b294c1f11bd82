/* Patterns of paths: whether one matches.  What a pattern means, and how it is compiled, is in
 * policy/globs.py; here is its second reader, which tests hold to the first.
 *
 * A program begins with its kind.  LITERAL: the rest is the text.  Otherwise components follow, each a
 * length of two bytes (the lower first) and so many bytes of tokens; ANY_NUMBER in the place of a
 * length is "**".  Matching takes time in proportion to the text: of all "**", and of all "*" in a
 * component, only the last one met is gone back to. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <limits.h>
#include <string.h>

enum { LITERAL, PATH, TEXT };            /* of a path: it begins with a slash, and "/" has one part */
enum { RUN = 1, ONE, STAR, SET };        /* RUN: its length in a byte, and bytes; SET: 32 bytes of bits */
enum { ANY_NUMBER = 0xFFFF, SET_SIZE = 32 };

struct part {
    const uint8_t *at;
    size_t length;
};

/* Bytes that a token takes in the text; whether they are there. */
static bool token(const uint8_t *code, const uint8_t *text, size_t left, size_t *step) {
    *step = code[0] == RUN ? code[1] : 1;
    if (*step > left)
        return false;
    if (code[0] == RUN)
        return memcmp(code + 2, text, *step) == 0;
    return code[0] == ONE || (code[1 + *text / 8] >> *text % 8 & 1);
}

static size_t width(const uint8_t *code) {
    return code[0] == RUN ? 2U + code[1] : code[0] == SET ? 1U + SET_SIZE : 1U;
}

static bool component(struct part code, struct part text) {
    const uint8_t *at = code.at, *end = at + code.length, *star = NULL;
    size_t place = 0, from = 0, step;
    for (;;) {
        if (at < end && *at == STAR) {
            star = ++at;
            from = place;
        } else if (at == end && place == text.length) {
            return true;
        } else if (at < end && token(at, text.at + place, text.length - place, &step)) {
            place += step;
            at += width(at);
        } else if (star == NULL || from >= text.length) {
            return false;
        } else {
            place = ++from;
            at = star;
        }
    }
}

/* The next component of a program; false for "**". */
static bool next_part(const uint8_t **at, struct part *found) {
    size_t length = (*at)[0] | (size_t)(*at)[1] << 8;
    *found = (struct part){*at + 2, length == ANY_NUMBER ? 0 : length};
    *at = found->at + found->length;
    return length != ANY_NUMBER;
}

/* How many components of a program come before "**", or its end, which `at` is then. */
static size_t group(const uint8_t **at, const uint8_t *end) {
    struct part one;
    size_t count = 0;
    for (const uint8_t *next = *at; next < end && next_part(&next, &one); *at = next)
        count++;
    return count;
}

/* Whether so many components of a program match parts. */
static bool here(const uint8_t *code, size_t count, const struct part *parts) {
    struct part one;
    for (size_t i = 0; i < count; i++) {
        next_part(&code, &one);
        if (!component(one, parts[i]))
            return false;
    }
    return true;
}

static size_t split(const uint8_t *text, size_t length, struct part *parts) {
    size_t count = 0;
    for (const uint8_t *at = text, *end = text + length;;) {
        const uint8_t *slash = memchr(at, '/', (size_t)(end - at));
        const uint8_t *stop = slash != NULL ? slash : end;
        parts[count++] = (struct part){at, (size_t)(stop - at)};
        if (slash == NULL)
            return count;
        at = slash + 1;
    }
}

bool matches(const uint8_t *code, size_t size, const char *given, size_t length) {
    struct part parts[PATH_MAX + 1];
    const uint8_t *end = code + size, *text = (const uint8_t *)given;
    if (*code == LITERAL)
        return size - 1 == length && memcmp(code + 1, text, length) == 0;
    bool path = *code++ == PATH;
    if (length >= PATH_MAX || (path && (length == 0 || *text != '/')))
        return false;
    size_t count = split(text, length, parts) - (path && length == 1), at = 0;
    const uint8_t *start = code;
    size_t head = group(&code, end);
    if (code == end)
        return count == head && here(start, head, parts);
    if (head > count || !here(start, head, parts))
        return false;
    at = head;
    while (code < end) { /* at a "**": the group behind it, at its leftmost place, or at the end */
        start = code += 2;
        size_t next = group(&code, end);
        if (code < end) {
            while (at + next <= count && !here(start, next, parts + at))
                at++;
            at += next;
            if (at > count)
                return false;
        } else {
            next += next == 0; /* at the end it takes one at least, whatever it is */
            return at + next <= count
                   && (start == end || here(start, next, parts + count - next));
        }
    }
    return false;
}

PyObject *core_matches(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer program, text;
    if (!PyArg_ParseTuple(args, "y*y*", &program, &text))
        return NULL;
    bool found = program.len > 0
                 && matches(program.buf, (size_t)program.len, text.buf, (size_t)text.len);
    PyBuffer_Release(&program);
    PyBuffer_Release(&text);
    return PyBool_FromLong(found);
}
