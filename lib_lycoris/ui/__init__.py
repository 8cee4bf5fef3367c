"""Pages in the browser, for Gradio 3.41.2 to 4.44; the only package that imports gradio. The host is handed in."""
