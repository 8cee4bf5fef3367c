"""What the webui runs of this extension: finds out where it is, and registers everything."""

import importlib.util

from lib_lycoris.hosts import detect

if detect() is None:
    print("LyCORIS: this program is not known to the extension; <lyco:...> does nothing here")
else:
    from lib_lycoris.hosts import a1111_register

    a1111_register.register()
    LycorisRun = a1111_register.script()  # the webui looks for classes of scripts in this module

    if importlib.util.find_spec("lib_lycoris.hosts.a1111_ui"):
        from lib_lycoris.hosts import a1111_ui
        from lib_lycoris.tools.inspect import inspect

        a1111_ui.register(lambda path: inspect(path).as_dict())
