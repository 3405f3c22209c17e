"""The same two numbers under finer or coarser cells: substates, clusters, caloric restriction."""
