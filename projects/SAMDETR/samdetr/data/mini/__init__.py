"""The bundled data set `mini`: handwritten digits on photographs."""
