/* A frontend on the bare contract: every image is one file, /hello, on nothing. */

#include <stdlib.h>
#include <string.h>

#include "frontend.h"

static frontend_string_t text(const char *chars) {
    frontend_string_t string;
    frontend_string_set(&string, chars);
    return string;
}

/* What an error of the host says; all its cases carry one string. */
static frontend_string_t message_of(const cofferdam_llb_types_error_t *error) {
    return error->val.invalid;
}

/* Makes the op. Making it again gives another handle to the same vertex. */
static bool hello(cofferdam_llb_graph_own_output_t *output, frontend_build_error_t *err) {
    static const char contents[] = "hello from C\n";
    cofferdam_llb_graph_file_action_t action = {
        .input = {.tag = COFFERDAM_LLB_GRAPH_ACTION_INPUT_SCRATCH},
        .kind = {
            .tag = COFFERDAM_LLB_GRAPH_ACTION_KIND_MKFILE,
            .val.mkfile = {
                .path = text("/hello"),
                .mode = 0644,
                .data = {(uint8_t *)contents, sizeof contents - 1},
            },
        },
        .has_output = true,
    };
    cofferdam_llb_graph_list_file_action_t actions = {&action, 1};
    cofferdam_llb_graph_op_metadata_t metadata = {.name = {true, text("write /hello")}};
    cofferdam_llb_graph_list_own_output_t outputs;
    cofferdam_llb_graph_error_t error;
    if (!cofferdam_llb_graph_file(&actions, &metadata, &outputs, &error)) {
        err->message = message_of(&error);
        return false;
    }
    *output = outputs.ptr[0];
    return true;
}

bool exports_frontend_build(frontend_request_t *request, frontend_build_result_t *ret,
                            frontend_build_error_t *err) {
    memset(ret, 0, sizeof *ret);
    memset(err, 0, sizeof *err);
    if (request->subrequest.len != 0) {
        err->message = text("there are no subrequests");
        return false;
    }
    ret->results.len = request->platforms.len;
    ret->results.ptr = malloc(ret->results.len * sizeof *ret->results.ptr);
    for (size_t i = 0; i < ret->results.len; i++) {
        cofferdam_frontend_types_platform_result_t *result = &ret->results.ptr[i];
        memset(result, 0, sizeof *result);
        result->platform = request->platforms.ptr[i];
        result->output.is_some = true;
        if (!hello(&result->output.val, err)) {
            return false;
        }
    }
    return true;
}

void exports_frontend_describe(frontend_description_t *ret) {
    memset(ret, 0, sizeof *ret);
    ret->name = text("minimal-c");
    ret->version = text("0.1.0");
    ret->summary = text("Makes an image of one file, /hello.");
}
