from fusion3d.cli.application import main

if __name__ == "__main__":
    main()
