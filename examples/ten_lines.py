import cwasi_fastpath as cwasi

with cwasi.Host() as host:
    decode = host.load("build/functions/decode.wasm", stdin="build/photo.jpg")
    grey = host.load("build/functions/grey.wasm")
    encode = host.load("build/functions/encode.wasm", stdout="build/grey.jpg")
    rgb = host.connect("rgb", decode, grey)  # the policy picks mode and transport
    host.connect("grey", grey, encode, ports=(None, "edges"))  # encode calls this channel "edges"
    host.run()  # a thread each; the first error is raised
    print(rgb.mode, rgb.transport, rgb.metrics(), rgb.explain(), sep="\n")
