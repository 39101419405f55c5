"""Foreign trainers: any nanochat checkout on the same road. The source of a fork's scripts comes in; what
they take, read and write goes out, and the arguments to start them with. Nothing of a fork is run or
imported here, and nothing here trains. `keeper.py` and the files it loads run in the fork's own interpreter,
without nanolan: they keep the weights of a script that has to stop early.
"""
