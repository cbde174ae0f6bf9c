"""The service: models over HTTP, with muchq's routes and OpenAI's. Needs the extra `serve`."""
