#' Share, serve and stop a model
#'
#' `share_model()` shares a trained model with the workers: its weights leave this process only as
#' shares. `serve_model()` lets clients ask, within limits that each worker enforces, and returns
#' at once. `stop_model()` ends that and, with `remove`, deletes the shares.
#'
#' @param cluster a cluster.
#' @param model a Keras 3 model (a Python object), or the path of a `.keras` or `.h5` file.
#' @param name the model's name at the workers.
#' @param sample typical inputs, an array (rows, ...), which make predictions cheaper; see the
#'   Python function `tercet.share`.
#' @param max_requests,max_rows how many requests and rows to answer in all; `NULL` is no limit.
#' @param remove whether to delete the model from the workers.
#' @return The cluster, invisibly, so that calls can be piped.
#' @examples
#' \dontrun{
#' workers <- local_cluster()
#' workers |>
#'   share_model("model.keras", "digits") |>
#'   serve_model("digits", max_requests = 3)
#' client <- connect_to_model(workers, "digits")
#' predict(client, images)
#' stop_cluster(workers)
#' }
#' @export
share_model <- function(cluster, model, name = "model", sample = NULL) {
  workers <- workers_of(cluster)
  if (!is.null(sample)) {
    sample <- to_numpy(sample, "sample")
  }
  if (is.character(model)) {
    model <- path.expand(model)
  }
  calling(module("tercet")$share(model, workers, name, sample = sample))
  invisible(cluster)
}

#' @rdname share_model
#' @export
serve_model <- function(cluster, name = "model", max_requests = NULL, max_rows = NULL) {
  calling(module("tercet")$serve(
    name, workers_of(cluster),
    max_requests = whole(max_requests, "max_requests"), max_rows = whole(max_rows, "max_rows")
  ))
  invisible(cluster)
}

#' @rdname share_model
#' @export
stop_model <- function(cluster, name = "model", remove = FALSE) {
  workers <- workers_of(cluster)
  tercet <- module("tercet")
  calling(tercet$stop(name, workers))
  if (isTRUE(remove)) {
    calling(tercet$remove(name, workers))
  }
  invisible(cluster)
}

#' Connect to a model, and ask it
#'
#' @param cluster a cluster that holds the model.
#' @param name the model, or "owner/name".
#' @return A client, for `predict()`.
#' @export
connect_to_model <- function(cluster, name = "model") {
  py <- calling(module("tercet")$connect(workers_of(cluster)))
  open <- new.env(parent = emptyenv())
  reg.finalizer(open, function(e) py$close(), onexit = TRUE)
  about <- calling(py$describe(name))
  structure(
    list(
      py = py, open = open, name = name,
      input = shape_of(about$input_shape), output = shape_of(about$output_shape)
    ),
    class = "tercet_client"
  )
}

#' Ask a model without showing it the question
#'
#' @param object a client, as `connect_to_model()` returns it.
#' @param x an array (rows, ...) of the model's input shape: double, integer or logical, without
#'   missing values; or a numeric data frame or matrix, if the model takes rows of numbers.
#' @param ... not used.
#' @return An array (rows, ...) of doubles.
#' @importFrom stats predict
#' @export
predict.tercet_client <- function(object, x, ...) {
  x <- numbers(x, "x")
  check_rows(x, object$input, "x")
  from_numpy(calling(object$py$predict(object$name, to_numpy(x))))
}

#' @export
print.tercet_client <- function(x, ...) {
  cat(
    "<tercet client of model '", x$name, "': (", paste(x$input, collapse = ", "), ") to (",
    paste(x$output, collapse = ", "), ")>\n", sep = ""
  )
  invisible(x)
}
