#' A worker
#'
#' @param host "host:port" of the worker.
#' @param auto_managed whether `start_cluster()` starts its process, on this machine. If not, it
#'   must run already; the error says how to start it.
#' @return A worker, for `cluster()`.
#' @export
worker <- function(host = "localhost:4000", auto_managed = TRUE) {
  py <- calling(module("tercet.syft")$TFEWorker(host = host, auto_managed = isTRUE(auto_managed)))
  structure(list(py = py, host = host, auto_managed = isTRUE(auto_managed)),
            class = "tercet_worker")
}

#' Three workers
#'
#' @param a,b,c three workers, in any order.
#' @param config path of a `cluster.toml`, with identities beside it, for workers elsewhere.
#' @return A cluster; every process that names the same three workers means the same one.
#' @export
cluster <- function(a, b, c, config = NULL) {
  workers <- list(a, b, c)
  for (one in workers) {
    if (!inherits(one, "tercet_worker")) {
      signal("InputError", "what cluster() takes are three workers. Make each with worker()")
    }
  }
  py <- calling(module("tercet.syft")$TFECluster(a$py, b$py, c$py, config = config))
  structure(list(py = py, hosts = vapply(workers, function(w) w$host, "")),
            class = c("tercet_remote", "tercet_cluster"))
}

#' Three workers on this machine, for trial
#'
#' Whoever controls this machine sees everything. The workers run when the function returns, and
#' end with `stop_cluster()` or with R.
#'
#' @param quiet do not print that one machine sees everything.
#' @return A cluster.
#' @export
local_cluster <- function(quiet = FALSE) {
  py <- calling(module("tercet")$LocalCluster(quiet = isTRUE(quiet))$start())
  structure(list(py = py), class = c("tercet_local", "tercet_cluster"))
}

#' Start and stop the workers of a cluster
#'
#' `start_cluster()` starts those that are `auto_managed` and returns when all three are ready.
#' `stop_cluster()` ends those that were started here; it is harmless if there are none.
#'
#' @param cluster a cluster.
#' @return The cluster, invisibly.
#' @export
start_cluster <- function(cluster) {
  if (!inherits(cluster, "tercet_remote")) {
    signal("InputError", "this cluster runs already. Only what cluster() made is started")
  }
  calling(cluster$py$start())
  invisible(cluster)
}

#' @rdname start_cluster
#' @export
stop_cluster <- function(cluster) {
  check_cluster(cluster)
  calling(cluster$py$stop())
  invisible(cluster)
}

# The cluster as Tercet's own functions take it.
workers_of <- function(cluster) {
  check_cluster(cluster)
  if (inherits(cluster, "tercet_remote")) calling(cluster$py$tercet) else cluster$py
}

check_cluster <- function(cluster) {
  if (!inherits(cluster, "tercet_cluster")) {
    signal("InputError", "that is not a cluster. Make one with local_cluster() or cluster()")
  }
}

#' @export
print.tercet_worker <- function(x, ...) {
  how <- if (x$auto_managed) "started by start_cluster()" else "started elsewhere"
  cat("<tercet worker ", x$host, ", ", how, ">\n", sep = "")
  invisible(x)
}

#' @export
print.tercet_cluster <- function(x, ...) {
  where <- if (inherits(x, "tercet_remote")) {
    paste(x$hosts, collapse = ", ")
  } else {
    "this machine, for trial"
  }
  cat("<tercet cluster: ", where, ">\n", sep = "")
  invisible(x)
}
