"""What `flux`, the program and its providers import apart from the project's own code, for interpreters that have it imported already."""

LIBRARIES = (
    "boto3",
    "encodings.idna",
    "httpcore",
    "httpx",
    "markdown_it",
    "obstore.store",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.PpmImagePlugin",
    "psutil",
    "pydantic",
    "rich.markup",
    "rich.progress",
    "rich.syntax",
    "rich_click.rich_help_rendering",
    "tenacity",
    "yaml",
)
