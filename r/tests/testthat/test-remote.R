test_that("three workers at addresses of this machine", {
  home <- tempfile("home")
  reticulate::import("os")$environ$update(list(TERCET_HOME = home))
  bind <- reticulate::import("tercet.net.sockets")$bind
  sockets <- lapply(1:3, function(i) bind("127.0.0.1", 0L))
  ports <- vapply(sockets, function(s) as.integer(s$getsockname()[[2]]), 1L)
  for (s in sockets) s$close()
  hosts <- paste0("localhost:", ports)

  absent <- cluster(worker(hosts[1], FALSE), worker(hosts[2], FALSE), worker(hosts[3], FALSE))
  expect_error(start_cluster(absent), "tercet worker --config", class = "tercet_WorkerError")

  mine <- cluster(worker(hosts[1]), worker(hosts[2]), worker(hosts[3]))
  expect_output(print(mine), hosts[2])
  expect_error(connect_to_model(mine), "connection refused", class = "tercet_TransportError")
  start_cluster(mine)
  known <- known_model()
  mine |> share_model(known$model) |> serve_model(max_rows = 7)
  same <- cluster(worker(hosts[3]), worker(hosts[1]), worker(hosts[2]))
  x <- array(1:30 / 8, dim = c(5, 2, 3))
  expect_equal(predict(connect_to_model(same), x), known$in_the_clear(x), tolerance = 1e-3)
  stop_cluster(mine)
  unlink(home, recursive = TRUE)
})
